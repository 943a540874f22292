"""Classification of signals: all that another package needs to bring a system to Foldwise."""
