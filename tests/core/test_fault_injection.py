"""Every public async operation of the core, cancelled at each of its checkpoints."""
