"""Classification of video clips: ultrasound and alike."""
