"""Where networks look: Grad-CAM maps, how alike two networks' maps are, and a picture sheet of them."""
