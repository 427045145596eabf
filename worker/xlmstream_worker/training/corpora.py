"""Where the text of the demo models comes from, and the form the trainer reads. The text is not shipped."""

HOW_TO_GET_THEM = """\
The trainer reads tab-separated files with a header line, plain or gzipped, in one of two forms:

  aligned   one column per language, named by its code; optionally `split` (train, valid, test) and others, ignored:
                split   en                          fr
                train   In the beginning, God ...   Au commencement, Dieu ...
  pairs     columns `lang`, a language code, and `translation`, in the language that `lang` names:
                lang    en               translation
                de      I was at home.   Ich war daheim.

Parts of speech that people gave are read from JSON lines; the objective `tags` trains on them, and the card of a
tagger measures them:
                {"lang": "en", "id": "1", "tokens": ["Go", "home", "."], "upos": ["VERB", "ADV", "PUNCT"]}

The demo models were trained on
  bible.tsv     verses in English (World English Bible), French (Segond 1910), German (Luther 1912) and Spanish
                (Reina-Valera 1909), all public domain. Sources: github.com/midvash/bible-data at 1b9b248b (en, de),
                github.com/unfoldingWord/bt-servant-engine-data-loaders at cc7b460e (fr), Debian's package
                sword-text-sparv (es). Joined by verse reference; whole chapters held out: of the 1,189 chapters in
                order, number i goes to valid if i mod 40 is 10, to test if it is 30.
  tatoeba.tsv   everyday English-French and English-German pairs, CC BY 2.0 FR, from tatoeba.org/downloads.
Any text will do: one file with a single language column trains a monolingual model.
"""
