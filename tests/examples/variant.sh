papermill notebooks/02_surrogate.ipynb _artifacts/finer_02.ipynb -p run finer -p grid 12
papermill notebooks/03_symbolic.ipynb _artifacts/finer_03.ipynb -p run finer
