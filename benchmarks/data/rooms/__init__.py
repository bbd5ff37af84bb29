"""The embedded world: procedural rooms with exact normals, depth, albedo and shading.

`rooms.scenes` says what is in a room and imports no torch; `rooms.render` makes pictures of it.
"""
