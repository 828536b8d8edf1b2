"""Pages of the AWS console."""

from __future__ import annotations


def console_of(region: str) -> str:
    """Address of AWS's console for a region; each partition of AWS has its own."""
    domains = {"cn": "amazonaws.cn", "us-gov": "amazonaws-us-gov.com"}
    domain = next((domain for name, domain in domains.items() if region.startswith(f"{name}-")), "aws.amazon.com")
    return f"https://console.{domain}"
