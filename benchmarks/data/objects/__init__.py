"""The second embedded world: one textured object on plain ground, with the same exact truth as rooms.

`objects.scenes` says what is in a scene and imports no torch; `rooms.render` makes pictures of it.
"""
