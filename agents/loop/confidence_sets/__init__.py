"""What a learner believes of an unknown process: confidence sets, and the optimistic plans over them."""
