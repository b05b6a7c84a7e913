"""Ranking studies: people watch clips in a browser and say which are better; an optimiser learns from their answers.

The trainer (:class:`rlopt.feedback.study.HumanStudy`) and the server (``rlopt rank serve``) are separate processes on
one database (:class:`rlopt.feedback.store.StudyStore`); either may be killed at any moment.
"""
