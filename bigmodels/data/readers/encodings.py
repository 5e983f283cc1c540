"""Guess the encoding of a text that is not UTF-8, and suggest how to convert it."""

import codecs
import os
import shlex

# UTF-32 first, as its mark begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_SAMPLE_BYTES = 1 << 16
# The most frequent characters: at least a quarter of a real text, but almost none of noise.
_CHINESE = (
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下"
    "自之年过发后作里用道行所然家种事成方多经么去法学如都同现当没动面起看定天分还进好小部"
    "其些主样理心第章回，。、：“”　"
)
_TRADITIONAL = (
    "的一是不了在人有我他這個們中來上大為和國地到以說時要就出會可也你對生能而子那得於著下"
    "自之年過發後作裡用道行所然家種事成方多經麼去法學如都同現當沒動面起看定天分還進好小部"
    "其些主樣理心第章回，。、：「」　"
)
_KOREAN = (
    "이다는을의에가하고지도로한은를서기사나라리어자시아대인그있들해수으만정일여과보스전와"
    "니었게부주면"
)
_JAPANESE = "".join(map(chr, range(0x3041, 0x30FF))) + "、。「」　日一人年大会国"
_RUSSIAN = "".join(map(chr, range(0x430, 0x450))) + "ё«»—–№"
_GREEK = "".join(map(chr, range(0x3AC, 0x3CF))) + "«»–΄"
_WESTERN = "àáâãäåæçèéêëìíîïñòóôõöøùúûüýœßÄÖÜÉÀÇŒ‘’“”„«»–—…€°§·¡¿"
_CENTRAL = "áâäąăćçčďđéęëěíîĺľłńňóôöőŕřśšşťţúůüűýźżžÁČĎÉÍŁÓŘŚŠŤÚŽŻß‘’“”„«»–—…"
_TURKISH = "çğıöşüâîûÇİÖŞÜ‘’“”…"
# In the right encoding, nearly all characters that are not ASCII are letters of the alphabet.
_ALPHABETS = {
    "windows-1252": _WESTERN,
    "windows-1254": _TURKISH,
    "windows-1250": _CENTRAL,
    "windows-1251": _RUSSIAN,
    "KOI8-R": _RUSSIAN,
    "CP866": _RUSSIAN,
    "windows-1253": _GREEK,
}
# Encodings of alphabets that also use the letters of ASCII.
_LATIN = ("windows-1252", "windows-1254", "windows-1250")
_ALPHABET_SHARE = 0.9
_IDEOGRAPHS = {
    "GB18030": _CHINESE,
    "Big5": _TRADITIONAL,
    "Big5-HKSCS": _TRADITIONAL,
    "Shift_JIS": _JAPANESE,
    "CP932": _JAPANESE,
    "EUC-JP": _JAPANESE,
    "EUC-KR": _KOREAN,
    "CP949": _KOREAN,
}
_WIDE = ("UTF-16LE", "UTF-16BE")
_EVERY = {*_CHINESE, *_TRADITIONAL, *_JAPANESE, *_KOREAN, *_RUSSIAN, *_WESTERN, *_CENTRAL, *_GREEK}
_EVERY |= {"\n", *map(chr, range(32, 127))}
_LEAST_SHARE = 0.05


def check_encoding(argument: str, name: str | None) -> None:
    """Check that Python knows an encoding.

    Args:
        argument: What messages call it: "data.encoding".
        name: Name of the encoding, or `None`.

    Raises:
        ValueError: if it is not.

    Example:

    >>> check_encoding("data.encoding", "klingon")
    Traceback (most recent call last):
    ValueError: data.encoding: 'klingon' is not a text encoding, expected for example utf-8 ...
    """
    try:
        if name is not None:
            "".encode(name)
    except (LookupError, ValueError):
        raise ValueError(
            f"{argument}: {name!r} is not a text encoding, expected for example utf-8 or gb18030"
        ) from None


def marked(raw: bytes) -> str:
    """Return the encoding that a byte order mark other than UTF-8's stands for.

    Args:
        raw: First bytes of a text.

    Returns:
        Name of the encoding, or "" if there is no such mark.

    Example:

    >>> marked("text".encode("utf-16"))
    'UTF-16'
    """
    return next((name for mark, name in _MARKS.items() if raw.startswith(mark)), "")


def likely(raw: bytes, place: int = 0) -> str:
    """Guess the encoding of a text.

    Args:
        raw: Bytes that are not UTF-8, or contain NUL.
        place: Offset of the first byte that is not UTF-8; the text before may be ASCII.

    Returns:
        A name that Python and `iconv` both know, or "" if no encoding fits.

    Example:

    >>> likely("中国的文字，是汉字。".encode("gb18030"))
    'GB18030'
    """
    if b"\x1b$B" in raw or b"\x1b$@" in raw:
        return "ISO-2022-JP"
    begin = max(raw.rfind(b"\n", 0, place) + 1, place - _SAMPLE_BYTES)
    sample = raw[begin : begin + _SAMPLE_BYTES]
    if len(raw) % 2 == 0:
        shares = {name: _share(raw[:_SAMPLE_BYTES], name, _EVERY, False) for name in _WIDE}
        wide = max(shares, key=shares.get)
        if shares[wide] > 0.5 and (b"\0" in raw or shares[wide] > 0.95):
            return wide
    if b"\0" in raw:
        return ""
    own, ascii_too = (sum(map(test, sample)) for test in (lambda b: b > 127, _is_letter))
    shares = {
        name: _share(sample, name, letters)
        for name, letters in _ALPHABETS.items()
        if (own <= ascii_too if name in _LATIN else 4 * own >= ascii_too)
    }
    best = max(shares, key=shares.get)
    if shares[best] >= _ALPHABET_SHARE:
        return best
    shares = {name: _share(sample, name, letters) for name, letters in _IDEOGRAPHS.items()}
    best = max(shares, key=shares.get)
    return best if shares[best] >= _LEAST_SHARE else ""


def conversion(encoding: str, path: str | os.PathLike, setting: bool = True) -> str:
    """Describe how to read or convert a file that is not UTF-8, for the end of a message.

    Args:
        encoding: Name of the encoding, as from `likely`.
        path: Path of the file.
        setting: Whether the user can set `data.encoding`.

    Returns:
        A string.

    Example:

    >>> conversion("GB18030", "a.txt", setting=False)
    'convert it: iconv -f GB18030 -t UTF-8 a.txt > a.txt.utf8'
    """
    file, converted = shlex.quote(str(path)), shlex.quote(f"{path}.utf8")
    line = f"convert it: iconv -f {encoding} -t UTF-8 {file} > {converted}"
    if str(path).endswith(".gz"):
        line = f"convert it: gzip -dc {file} | iconv -f {encoding} -t UTF-8 > {converted}"
    return f"set data.encoding={encoding.lower()}, or {line}" if setting else line


def _share(raw, encoding, letters, beyond_ascii=True):
    """The fraction of characters that are in `letters`, or 0 if the encoding is impossible."""
    try:
        # The sample's last character may be incomplete.
        text = codecs.getincrementaldecoder(encoding)().decode(raw)
    except UnicodeDecodeError:
        return 0.0
    if beyond_ascii:
        text = [character for character in text if character > "\x7f"]
    return sum(map(letters.__contains__, text)) / len(text) if text else 0.0


def _is_letter(byte):
    return chr(byte).isascii() and chr(byte).isalpha()
