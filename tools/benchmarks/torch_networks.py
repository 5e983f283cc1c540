"""The same networks in PyTorch, which is given: not everybody has it, or TensorFlow beside it."""


def cnn(torch):
    """The convolutional network for images of 28 x 28."""
    nn = torch.nn
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(1600, 128), nn.ReLU(), nn.Linear(128, 10)),
    )


def lstm(torch, vocabulary, width, units):
    """Embedding, LSTM, logits."""

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(vocabulary, width)
            self.rnn = torch.nn.LSTM(width, units, batch_first=True)
            self.dense = torch.nn.Linear(units, vocabulary)

        def forward(self, x):
            return self.dense(self.rnn(self.embedding(x))[0])

    return Network()


def transformer(torch, layers, width, heads, length, vocabulary):
    """Pre-normalised blocks with a causal mask."""
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x):
            shape = (*x.shape[:2], 3, heads, width // heads)
            q, k, v = self.qkv(self.norm1(x)).view(shape).permute(2, 0, 3, 1, 4)
            y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(y.transpose(1, 2).reshape(x.shape))
            return x + self.down(torch.relu(self.up(self.norm2(x))))

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = nn.Embedding(vocabulary, width)
            self.positions = nn.Parameter(torch.zeros(length, width), requires_grad=False)
            self.blocks = nn.Sequential(*(Block() for _ in range(layers)))
            self.norm, self.dense = nn.LayerNorm(width), nn.Linear(width, vocabulary)

        def forward(self, x):
            x = self.tokens(x) * width**0.5 + self.positions
            return self.dense(self.norm(self.blocks(x)))

    return Network()
