"""The PACS: images come from it over the network, results go back to it."""
