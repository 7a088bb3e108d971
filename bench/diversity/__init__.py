"""How different the pictures of one prompt are: LPIPS among its seeds."""
