package dtls12

type remote struct{}

func (*remote) establish() {}
