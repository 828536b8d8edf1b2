"""A scene and its runs: names, results laid out for people, how a run ended."""
