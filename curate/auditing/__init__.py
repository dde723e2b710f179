"""`curate audit`: people read a sample of what was labelled, blind to the labels, and the labels are held against their answers."""
