"""Pictures in the layouts of data sets, drawn for the tests, with what is odd in real folders."""
