package wire

// BufferBytes returns the size of the buffer that the reader holds.
func (r *FrameReader) BufferBytes() int { return cap(r.buf) }
