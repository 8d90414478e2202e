"""What runs on a device. These files need python3 alone (3.10 or newer), and know each other by relative names: pushed
to a device as a folder, they are a package of their own, without ours.
"""
