"""The embedded small models, in the layouts of the big ones, and the code that trained them."""
