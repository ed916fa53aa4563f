"""Kinds of fields that several mappings of a feed's file have."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A mapping in the file. What is not a field is an error, for it would be ignored otherwise."""

    model_config = ConfigDict(extra="forbid", frozen=True)
