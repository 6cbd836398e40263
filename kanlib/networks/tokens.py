"""Texts as tokens: the tokeniser of llama2.c, and what is asked of any other."""

import struct
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from kanlib.errors import BadInputError, cause, shown
from kanlib.networks.patterns import plain

#: Before a text, and between texts, in what a Llama was trained on.
BEGINNING = 1
#: After the unknown, the beginning and the end come the 256 bytes, and then what was learnt.
_FIRST_BYTE = 3
_FIRST_LEARNT = _FIRST_BYTE + 256


class Encoder(Protocol):
    """What turns texts into tokens: a :class:`Tokeniser`, or one of transformers."""

    def encode(self, text: str) -> Sequence[int]:
        """The tokens of a text, with what the model expects before it."""
        ...


class Tokeniser:
    """Byte-pair encoding by scores, as sentencepiece does it: the two neighbours of the best score become one.

    Attributes:
        pieces: the bytes of each token.
        scores: of each token; the higher, the earlier it is made.

    Source: Sennrich et al. (2016), arXiv 1508.07909; llama2.c, ``tokenizer.py``.
    """

    def __init__(self, pieces: Sequence[bytes], scores: Sequence[float]):
        self.pieces, self.scores = tuple(pieces), tuple(scores)
        # A letter that was learnt also stands among the bytes, by which only others are spelt.
        self._number = {piece: _FIRST_LEARNT + i for i, piece in enumerate(self.pieces[_FIRST_LEARNT:])}

    def __len__(self) -> int:
        return len(self.pieces)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, after that of a beginning; what has no token of its own is spelt in bytes.

        A text begins with a space, which :meth:`decode` takes away.

        Raises:
            BadInputError: the text holds what UTF-8 cannot (half a surrogate pair).
        """
        tokens: list[int] = []
        for letter in f" {text}" if text else "":
            try:
                spelt = letter.encode()
            except UnicodeEncodeError as error:
                raise BadInputError(
                    f"the text {shown(text)} holds {shown(letter)}, which is no letter of UTF-8; leave it out."
                ) from error
            known = self._number.get(spelt)
            tokens += [known] if known is not None else [_FIRST_BYTE + byte for byte in spelt]
        while (best := self._best(tokens)) is not None:
            i, merged = best
            tokens[i : i + 2] = [merged]
        return [BEGINNING, *tokens]

    def _best(self, tokens: Sequence[int]) -> tuple[int, int] | None:
        """Where the two neighbours stand that are merged next, and their token; the first of equals."""
        pairs = enumerate(pairwise(tokens))
        merged = ((i, self._number.get(self.pieces[a] + self.pieces[b])) for i, (a, b) in pairs)
        known = [(i, number) for i, number in merged if number is not None]
        return max(known, key=lambda one: self.scores[one[1]], default=None)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens; beginnings and ends are left out, and bytes that are no letter become ``�``.

        Raises:
            BadInputError: a token is outside the vocabulary.
        """
        for token in tokens:
            if not 0 <= token < len(self.pieces):
                raise BadInputError(
                    f"token {token} is outside the vocabulary, expected 0 to {len(self.pieces) - 1}; take the "
                    "tokeniser that belongs to the model."
                )
        whole = b"".join(self.pieces[token] for token in tokens if token >= _FIRST_BYTE)
        begins = bool(tokens) and tokens[0] == BEGINNING
        return (whole.removeprefix(b" ") if begins else whole).decode(errors="replace")


def read(file: str | Path) -> Tokeniser:
    """The tokeniser of a file of llama2.c: an int32, then of each token an fp32 score, an int32 length, its bytes.

    Tokens written ``<0x41>`` stand for that byte.

    Raises:
        BadInputError: no such file, or one that ends in the middle of a token.
    """
    try:
        raw = Path(file).read_bytes()
    except (OSError, ValueError) as error:
        raise BadInputError(
            f"the tokeniser {plain(str(file))} cannot be read ({cause(error)}), expected one of llama2.c; name "
            "another file."
        ) from error
    pieces: list[bytes] = []
    scores: list[float] = []
    at = 4
    while at < len(raw):
        score, n = struct.unpack_from("<fi", raw, at) if at + 8 <= len(raw) else (0.0, -1)
        if n < 0 or at + 8 + n > len(raw):
            raise _damaged(file, f"it ends in the middle of token {len(pieces)}")
        pieces.append(_spelt(raw[at + 8 : at + 8 + n]))
        scores.append(score)
        at += 8 + n
    if len(pieces) < _FIRST_LEARNT:
        raise _damaged(file, f"it has {len(pieces)} tokens, fewer than there are bytes")
    return Tokeniser(pieces, scores)


def _spelt(piece: bytes) -> bytes:
    is_byte = len(piece) == 6 and piece.startswith(b"<0x") and piece.endswith(b">")
    return bytes.fromhex(piece[3:5].decode()) if is_byte else piece


def _damaged(file: str | Path, why: str) -> BadInputError:
    return BadInputError(
        f"{plain(str(file))} is no tokeniser as llama2.c writes it: {why}; take it from its source again."
    )
