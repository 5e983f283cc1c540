"""tools/corpus: what becomes of a page, and which files of a package are read."""

import importlib.machinery
import importlib.util
import pathlib
import shutil
import subprocess

import pytest

pytest.importorskip("lxml")
PATH = pathlib.Path(__file__).parents[1] / "tools" / "corpus"


@pytest.fixture(scope="module")
def corpus():
    loader = importlib.machinery.SourceFileLoader("corpus", str(PATH))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("corpus", loader))
    loader.exec_module(module)
    return module


def test_a_page_becomes_paragraphs_and_keeps_preformatted_lines(corpus):
    page = """<html><head><title>no</title><script>no</script></head><body><nav>no</nav>
    <div role="main"><h1>Naïve<a class="headerlink">¶</a></h1><p>One
    <em>sentence</em>.</p><ul><li>a</li><li>b</li></ul><pre>if x:
    y = <b>1</b>
</pre><!-- no --></div><footer>no</footer></body></html>"""
    expected = "Naïve\n\nOne sentence.\n\na\nb\n\nif x:\n    y = 1"
    assert corpus.of_html(page.encode()).strip() == expected
    latin = page.replace("<head>", '<head><meta charset="iso-8859-1">').encode("latin-1")
    assert corpus.of_html(latin).strip() == expected


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="needs dpkg-deb")
def test_the_files_of_a_package_in_order(corpus, tmp_path):
    root = tmp_path / "package"
    long = "word " * 120
    for name, text in {
        "DEBIAN/control": "Package: a\nVersion: 1\nArchitecture: all\nMaintainer: a\n"
        "Description: a\n",
        "doc/b.html": f"<p>second {long}",
        "doc/a/z.html": f"<p>first {long}",
        "doc/genindex.html": f"<p>no {long}",
        "doc/de/c.html": f"<p>no {long}",
        "doc/d.html": "<p>short",
        "doc/e.css": f"no {long}",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "doc/link.html").symlink_to("b.html")
    archive = tmp_path / "a.deb"
    subprocess.run(["dpkg-deb", "--build", root, archive], check=True, capture_output=True)
    texts = list(corpus.documents(archive, "html", "/de/"))
    assert [text.split()[0] for text in texts] == ["first", "second"]


def test_the_table_of_packages_is_complete_and_sorted(corpus):
    names = [name for name, version, licence, wanted, _ in corpus.PACKAGES if version and licence]
    assert len(names) == len(corpus.PACKAGES) and names == sorted(set(names))
