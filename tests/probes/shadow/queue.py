MINE = "my queue"
