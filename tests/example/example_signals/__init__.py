"""Classification of signals: everything that another package needs to add a system to Foldwise."""
