"""Pages that show what a run did: static files that open from a disk, without a server or a network.

``record`` reads the folder of a run, ``words`` says the grades as a sentence, ``slices`` draws the stacks and the
points on them, ``windows`` what the networks saw and ``attention`` what they looked at, ``study`` makes a study's page,
``overview`` the first page, ``charts`` its charts, ``site`` the files, ``build`` the whole; ``training`` the page of
training runs, with ``thumbnails`` of their worst cases.
"""
