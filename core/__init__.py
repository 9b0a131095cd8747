"""The words we share: names, the wire cursor, queries, verdicts, findings, events, configuration, errors. No I/O."""
