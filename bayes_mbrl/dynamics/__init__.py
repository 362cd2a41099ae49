"""p(s' | s, a, θ): what a model of transitions adds to a regression."""
