"""Files of others read as sights: captures, Zeek's logs, tables, and our own query log."""
