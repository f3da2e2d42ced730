"""What a dense branch may be, by name. This file needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from jointnet.errors import UnknownNameError

BRANCH_KINDS = ("full", "lora:RANK", "thin:SHARE")


@dataclass(frozen=True)
class BranchKind:
    """What the dense branches are.

    Attributes:
        rank: of the changes to the RGB branch's layers; 0: they are no such changes.
        share: of the RGB branch's channels that a copy has.
    """

    rank: int = 0
    share: float = 1.0

    @classmethod
    def parse(cls, text: str) -> BranchKind:
        """Read "full", "lora:16" or "thin:0.5". Raises: UnknownNameError."""
        name, _, value = text.partition(":")
        try:
            if name == "lora" and int(value) > 0:
                return cls(rank=int(value))
            if name == "thin" and 0 < float(value) < 1:
                return cls(share=float(value))
        except ValueError:
            pass
        if text != "full":
            raise UnknownNameError(f"got branch {text!r}; expected one of {', '.join(BRANCH_KINDS)}, such as lora:16 or thin:0.5")
        return cls()

    @property
    def is_full(self) -> bool:
        """True for a network like the RGB branch's."""
        return not self.rank and self.share == 1
