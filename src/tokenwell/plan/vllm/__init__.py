"""vLLM 0.19's memory arithmetic, as facts of another engine: what it prints at start, and why."""

from __future__ import annotations

from tokenwell.plan.vllm.plan import VllmPlan, explain_printed, vllm_plan

__all__ = ["VllmPlan", "explain_printed", "vllm_plan"]
