"""What a study remembers: genomes, lineage and settings as attributes.

The only package that spells storage keys and Optuna's private names. A genome is a system
attribute of its trial (optuna-dashboard does not send those to the browser): one string of
base64 in pieces below 60,000 bytes, since MySQL's TEXT ends at 65,535. A large genome is
compressed against its parents, so a child costs kilobytes even where a genome costs megabytes;
trials are named by number, never by id, so a copied study still reads.
"""
