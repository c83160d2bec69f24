"""What the engines share: jobs from waiting to done or failed, as they are seen from outside. Layer 5."""
