"""Jupyter-book's command line without Python's collector of cycles, which takes a third of the time of a build.

Documents are full of cycles, and all are needed to the end: it looks through them again and again for nothing.
"""

import gc

from jupyter_book.cli.main import main

if __name__ == "__main__":
    gc.disable()
    main()
