"""The page at ``/ui``: what a deployment does now and did in the last hours, drawn in a browser.

Theory of operation. A `Recorder` reads the driver's journal as it is written and keeps three things
in bounded memory: a `Sample` of the fleet a second (thinned out as it ages), a row for each
request, and the entries that are news (an engine down, a role changed, a prompt refused). A
`PageServer` hands them to browsers: all of it once, then what is new each second as server-sent
events. The page itself is files without a build step (``static``). Its words, figures and pictures
are made in the browser from those three, so that a journal or a simulation that is dropped on it is
drawn by the same code.
"""
