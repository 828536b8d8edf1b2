"""Pages inside Airflow's own: a run's progress and scene, the gallery of scenes, what a task read and wrote."""
