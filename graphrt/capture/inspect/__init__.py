# SPDX-License-Identifier: Apache-2.0
"""What a captured graph holds, read back and explained.

read              from a graph to a report, through the driver
handles           from what a user passes to a handle that is safe to read
manifest, memory  declared buffers, and what lies at an address
triton_names, dot names of a Triton kernel's arguments; bodies in the driver's drawing
findings          what a report gives cause to say
report, schema    the report as plain data, and as JSON
contract          what a graph must look like, checked cheaply after a capture
fingerprint       what makes a graph the same graph
diff, golden      what differs between two reports; a test's one assertion against a file
fold, tree, page  layers folded into one; a terminal tree; an HTML page
poison, delay     runs that show what a launch reads
"""
