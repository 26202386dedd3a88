"""How much memory a program needed at most, as an expression to be evaluated in that program."""

# Not getrusage's ru_maxrss: a process begins with its parent's, and pytest's own may be large.
PEAK_BYTES = '(int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) << 10)'
