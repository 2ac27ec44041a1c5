"""GBNF as llama.cpp's own grammars have it, beside llguidance's own converter."""

from __future__ import annotations

import json
import random

import pytest
from llguidance import LLMatcher, LLTokenizer
from llguidance.gbnf_to_lark import gbnf_to_lark

from backends.contract.errors import InvalidField
from backends.contract.structured import StructuredOutput
from backends.guidance.gbnf import lark_rules
from backends.guidance.grammar import lark_grammar
from backends.guidance.vocabulary import Vocabulary
from backends.text.tokenizer import HuggingFaceTokenizer as Tokenizer
from tests.backends.guidance.conftest import EOS, PADDED

JSON = r"""
# The root is an object, as models are told to write.
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws

string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws

number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""
CORPUS = {
    "json": JSON,
    "arithmetic": r"""
root  ::= (expr "=" ws term "\n")+
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \t\n]*
""",
    "list": r"""
root ::= item+
item ::= "- " [^\r\n\x0b\x0c\x85\u2028\u2029]+ "\n"
""",
    "chess": r"""
root    ::= "1. " move " " move "\n" ([1-9] [0-9]? ". " move " " move "\n")+
move    ::= (pawn | nonpawn | castle) [+#]?
nonpawn ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]
pawn    ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBKQR])?
castle  ::= "O-O" "-O"?
""",
    "counts": 'root ::= "a"{2} b{1,3} [c-e]{0,2} ("x" | "yz"){2,} "!"?\nb ::= "b"\n',
    "recursion": 'root ::= s\ns ::= "(" s ")" s | "[" s "]" | ""\n',
    "windows lines": 'root ::= a |\r\n  b\r\na ::= "a" # one\r\nb ::= "b"\r\n',
    "escapes": r'root ::= "\"\\\n\t\r\x41\u00e9\U0001F600" [\]\[\\\x30-\x39é-ü] .',
}  # fmt: skip


@pytest.fixture(scope="module")
def ll_tokenizer(tokenizer: Tokenizer) -> LLTokenizer:
    text = Vocabulary.of(tokenizer.to_json()).tokenizer_json
    return LLTokenizer(text, n_vocab=PADDED, eos_token=list(EOS))


def matcher(tokenizer: LLTokenizer, lark: str) -> LLMatcher:
    made = LLMatcher(tokenizer, lark, log_level=0)
    assert not made.is_error(), made.get_error()
    return made


def begun(made: LLMatcher, chance: random.Random) -> list[int]:
    """A text's first tokens, or all of them."""
    ids: list[int] = []
    while not made.is_stopped() and len(ids) < 60:
        mask = made.compute_bitmask()
        allowed = [
            8 * at + bit for at, byte in enumerate(mask) for bit in range(8) if byte >> bit & 1
        ]
        ids.append(chance.choice(allowed))
        made.consume_token(ids[-1])
    return ids


@pytest.mark.parametrize("name", CORPUS)
def test_it_takes_what_llguidance_s_converter_takes(ll_tokenizer: LLTokenizer, name: str) -> None:
    ours = matcher(ll_tokenizer, lark_grammar(StructuredOutput.of({"grammar": CORPUS[name]}), {}))
    theirs = matcher(ll_tokenizer, gbnf_to_lark(in_plain_characters(CORPUS[name])))
    for seed in range(12):
        for one, other in ((ours, theirs), (theirs, ours)):
            ids = begun(one.deep_copy(), random.Random(seed))
            copy = other.deep_copy()
            assert copy.try_consume_tokens(ids) == len(ids), ll_tokenizer.decode_str(ids)


def in_plain_characters(gbnf: str) -> str:
    """llguidance's converter keeps escapes by number as they are, which Lark reads otherwise."""
    for escape in (r"\x41", r"\u00e9", r"\U0001F600"):
        gbnf = gbnf.replace(escape, chr(int(escape[2:], 16)))
    return gbnf


@pytest.mark.parametrize(
    ("gbnf", "right", "wrong"),
    [
        ('root ::= "a"\n  | "b"', ["a", "b"], ["c"]),
        ('root ::= "a"*? "b"', ["b", "aab"], ["ba"]),
        ('root ::= ("a" | "b"{2}){2} ', ["aa", "abb", "bbbb"], ["b", "abbb"]),
        ('root ::= "a" \nroot ::= "b"', ["b"], ["a"]),
        (r"root ::= [\-a\.] [^] [^\x00-\x1f]", ["-x.", "a\n."], ["b..", "..\n"]),
        ('root ::= a-b_c\na-b_c ::= "x"', ["x"], []),
        ('root ::= "" | (  )', [""], ["a"]),
        ('root ::= "a"{0} ("b" | "c"){0,0} "d"{0,}', ["", "d"], ["a", "b"]),
        (r'root ::= "\[\]\-"', ["[]-"], []),
        ('root::="a"#c\n#d', ["a"], []),
    ],
)
def test_texts(ll_tokenizer: LLTokenizer, gbnf: str, right: list[str], wrong: list[str]) -> None:
    made = matcher(ll_tokenizer, lark_grammar(StructuredOutput.of({"grammar": gbnf}), {}))

    def fits(text: str) -> bool:
        copy = made.deep_copy()
        ids = ll_tokenizer.tokenize_str(text)
        return copy.try_consume_tokens(ids) == len(ids) and copy.is_accepting()

    assert [fits(text) for text in right] == [True] * len(right)
    assert [fits(text) for text in wrong] == [False] * len(wrong)


@pytest.mark.parametrize(
    ("gbnf", "says"),
    [
        ("root ::= a", "rule `a` is not defined"),
        ('a ::= "b"', "no rule `root`"),
        ('root ::= "a', 'line 1, at `"a`'),
        ('root ::= "b"\n\nx = "c"', "line 3, at `= "),
        *((f"root ::= {part}", "line 1") for part in ("(", ')', "[a", '("a"', '"a" {2', "a ::= b")),
        (r'root ::= "\d"', r"`\d` is no escape"),
        (r'root ::= "\ud800"', "is no character"),
        (r"root ::= [\U00110000]", "is no character"),
        *(("root ::= [z-a]", "`z-a` is no range"), ("root ::= []", "`[]` has no characters")),
        ("root ::= " + "(" * 30_000, "nested at most 64"),
        ("root ::= " + '"a"' + "*" * 100, "repetitions of one another"),
        ('root ::= ("abc"{100}){500}', "at most 50000 parts"),
        ("root ::= " + '"a"{9000} ' * 9, "at most 50000 parts"),
        ("\n".join(f'r{i} ::= "a"' for i in range(2050)), "at most 2048 rules"),
    ],
    ids=lambda value: value[:24],
)  # fmt: skip
def test_what_is_wrong_is_told(gbnf: str, says: str) -> None:
    with pytest.raises(InvalidField) as caught:
        lark_grammar(StructuredOutput.of({"grammar": gbnf}), {})
    assert says in str(caught.value)
    assert len(str(caught.value)) < 300


def test_rules_without_recursion_are_terminals() -> None:
    rules, root = lark_rules('root ::= a b\na ::= "x" c\nb ::= a b | ""\nc ::= [0-9]')
    names = [line.partition(":")[0] for line in rules.splitlines()]
    assert (root, names) == ("r0", ["r0", "T1", "r2", "T3"])
    assert json.dumps("x") in rules
