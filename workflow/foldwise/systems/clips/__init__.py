"""Classification of video clips: ultrasound and similar."""
