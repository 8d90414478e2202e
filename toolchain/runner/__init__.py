"""What runs on a device. These files need python3 (3.8 or newer), numpy and a runtime, and know each other by relative
names: in a bundle, or pushed to a device, they are the folder runner/ beside run.py, without the rest of this project.
"""
