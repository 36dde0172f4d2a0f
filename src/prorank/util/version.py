"""The version of prorank; packaging reads it here."""

VERSION = "0.1.0"
