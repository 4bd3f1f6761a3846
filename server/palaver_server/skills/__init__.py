"""Skills that the server can call: implementations of `domain.ports.SkillSource`."""
