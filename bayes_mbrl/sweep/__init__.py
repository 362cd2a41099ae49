"""Many runs, on one machine or on a cluster: tasks that are done once, whoever does them."""
