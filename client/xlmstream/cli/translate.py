"""The command `translate`: one text streamed, several over one stream."""

from __future__ import annotations

import argparse
from typing import cast

from xlmstream.cli import tasks
from xlmstream.cli.commands import connect, given_keywords, stream_text
from xlmstream.keywords import TranslateKeywords


def translate(arguments: argparse.Namespace) -> int:
    """Stream the translation of one text of the command line; map several, or the lines of standard input."""
    if len(arguments.texts) != 1 or arguments.json:
        return tasks.run("translate", arguments)
    keywords = cast(TranslateKeywords, given_keywords(arguments, TranslateKeywords.__annotations__))
    with connect(arguments) as client:
        return stream_text(client.translate_stream(arguments.texts[0], **keywords), arguments.texts[0])
