"""The filter language of the run table and the command line: `status=failed and model.d_state>8 and lr<1e-3`.

    words              match name, id, ablation, trial and tags; * and ? are wildcards
    field OP value     OP is one of = != < <= > >= ~ (regular expression) !~
    and or not ( )     terms side by side mean `and`

Fields are those of a run (status, step, age, ...), keys of its configuration (`model.d_state`, or `d_state` where one
key alone ends so), its metrics (`valid/accuracy`) and its axes. `age<2h`, `progress>50%` and `valid/loss=nan` work. What
a run does not have matches nothing. Pure: standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tui.filter_terms import Fields, FilterError, Predicate, Token, comparison, unquote, word_predicate

__all__ = ["Fields", "Filter", "FilterError", "compile_filter", "tokenize"]


@dataclass(frozen=True, slots=True)
class Filter:
    """A compiled filter. An empty text matches everything."""

    text: str
    predicate: Predicate = field(compare=False)

    def matches(self, run: Any, now: float) -> bool:
        """Tell whether a run passes; `now` is what ages count from."""
        return self.predicate(run, now)

    def select(self, runs: Iterable[Any], now: float) -> list[Any]:
        """Return the runs that pass, in their order."""
        if not self.text:
            return list(runs)
        predicate = self.predicate
        return [run for run in runs if predicate(run, now)]


TOKEN = re.compile(
    r"\s*(?:(?P<open>\()|(?P<close>\))|(?P<op>!=|!~|<=|>=|==|=|<|>|~)"
    r"|(?P<string>\"[^\"]*\"|'[^']*')|(?P<word>[^\s()\"'<>=~!]+))"
)


def tokenize(text: str) -> list[Token]:
    """Split a filter into tokens. Raises FilterError at an open quote or a stray sign."""
    tokens, at = [], 0
    end = len(text.rstrip())
    while at < end:
        match = TOKEN.match(text, at)
        if match is None:
            position = at + len(text[at:]) - len(text[at:].lstrip())
            what = "a quote that is not closed" if text[position] in "\"'" else f"unexpected {text[position]!r}"
            raise FilterError(what, position)
        kind = match.lastgroup or ""
        tokens.append(Token(kind, match[kind], match.start(kind)))
        at = match.end()
    return tokens


def compile_filter(text: str, fields: Fields | None = None) -> Filter:
    """Return the filter that a text means. Without `fields` no name is refused. Raises FilterError."""
    tokens = tokenize(text)
    if not tokens:
        return Filter("", lambda _run, _now: True)
    parser = _Parser(tokens, fields, len(text.rstrip()))
    predicate = parser.any_of()
    if parser.peek() is not None:
        raise FilterError("a ) that nothing opened", parser.position())
    return Filter(text.strip(), predicate)


class _Parser:
    def __init__(self, tokens: list[Token], fields: Fields | None, end: int) -> None:
        self.tokens = tokens
        self.fields = fields
        self.end = end
        self.at = 0

    def peek(self) -> Token | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def position(self) -> int:
        token = self.peek()
        return token.position if token else self.end

    def take(self) -> Token:
        token = self.tokens[self.at]
        self.at += 1
        return token

    def keyword(self, word: str) -> bool:
        token = self.peek()
        if token is None or token.kind != "word" or token.text.lower() != word:
            return False
        following = self.tokens[self.at + 1] if self.at + 1 < len(self.tokens) else None
        return following is None or following.kind != "op"  # `not=1` would be a field of that name

    def any_of(self) -> Predicate:
        terms = [self.all_of()]
        while self.keyword("or"):
            self.take()
            terms.append(self.all_of())
        if len(terms) == 1:
            return terms[0]
        return lambda run, now: any(term(run, now) for term in terms)

    def all_of(self) -> Predicate:
        terms = [self.negation()]
        while (token := self.peek()) is not None and token.kind != "close" and not self.keyword("or"):
            if self.keyword("and"):
                self.take()
            terms.append(self.negation())
        if len(terms) == 1:
            return terms[0]
        return lambda run, now: all(term(run, now) for term in terms)

    def negation(self) -> Predicate:
        if self.keyword("not"):
            self.take()
            term = self.negation()
            return lambda run, now: not term(run, now)
        return self.primary()

    def primary(self) -> Predicate:
        token = self.peek()
        if token is None:
            raise FilterError("something is missing here: a word, or field=value", self.end)
        if token.kind == "open":
            return self.group()
        if token.kind in ("op", "close"):
            raise FilterError(f"expected a word or a field before {token.text!r}", token.position)
        if self.keyword("and") or self.keyword("or"):
            raise FilterError(f"nothing stands before {token.text!r}", token.position)
        self.take()
        operator = self.peek()
        if operator is None or operator.kind != "op":
            return word_predicate(unquote(token))
        self.take()
        value = self.peek()
        if value is None or value.kind not in ("word", "string"):
            raise FilterError(f"expected a value after {token.text} {operator.text}", self.position())
        return comparison(token, operator, self.take(), self.fields)

    def group(self) -> Predicate:
        opening = self.take()
        inner = self.any_of()
        if self.peek() is None:
            raise FilterError("this ( is not closed", opening.position)
        self.take()
        return inner
