"""An Arm machine emulated on this one: Debian's files and Python packages for it, QEMU's user mode, what runs there."""
