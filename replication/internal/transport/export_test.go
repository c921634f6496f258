package transport

// OccupySnapshots takes the slots of all snapshots until release is called.
func (t *Transport) OccupySnapshots() (release func()) {
	for range maxSnapshots {
		t.snapshots <- struct{}{}
	}
	return func() {
		for range maxSnapshots {
			<-t.snapshots
		}
	}
}
