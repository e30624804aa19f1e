"""What a lab needs to run the registry for everyone: MLflow's server with a database, files, and people who log in."""
