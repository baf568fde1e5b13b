"""The conditions that come with drivegen, registered as any third party's are."""
