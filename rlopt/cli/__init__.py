"""The ``rlopt`` command: a module for each verb, imported when the verb is used."""
