"""The networks themselves, in the official parameter names; imported when a generator is loaded."""
