"""A sparse autoencoder of the real model: trained, labelled, tested and edited with."""
